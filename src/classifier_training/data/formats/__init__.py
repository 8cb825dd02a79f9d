"""The forms in which data sets arrive; one file a form."""
