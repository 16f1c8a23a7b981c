"""`card-worker send-file`: one command for each line of a file."""
