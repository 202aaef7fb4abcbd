"""Reading a data set's splits from files, storage or the hub."""
