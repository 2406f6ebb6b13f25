"""The REST service: versioned under ``/v1``, one process over one lake.

``app`` puts it together; ``gate`` stands before every route (who asks, from where, how much, how often); ``live`` holds
the snapshot that reads are answered from; ``routes`` holds the routes, one file a noun; ``runs`` long work in child
processes; ``fence`` what a request may name.
"""
