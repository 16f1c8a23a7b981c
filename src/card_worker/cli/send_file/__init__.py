"""`card-worker send-file`: a command for each line of a file."""
