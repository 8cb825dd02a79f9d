"""The figures of a run, drawn for PNG and SVG by `drawing`; each registers itself."""
