"""Networks, each behind one word of `model=`."""
