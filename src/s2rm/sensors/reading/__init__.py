"""Tables in files of any kind and size, read into `Reports`."""
