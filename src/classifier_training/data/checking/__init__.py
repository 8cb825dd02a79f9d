"""What is wrong with a data set: single files, classes, copies."""
