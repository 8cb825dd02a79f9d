"""The ground floor: types, errors, the register, preprocessing, paths and the runtime."""
