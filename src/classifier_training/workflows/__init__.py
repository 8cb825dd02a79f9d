"""What the command line calls: plain typed functions, in a folder a purpose."""
