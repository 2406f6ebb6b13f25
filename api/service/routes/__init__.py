"""The routes, one file a noun. A route reads a request, calls a flow and answers; the gate has seen to all else."""
