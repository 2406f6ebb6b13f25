"""Every way in: the command line, the REST service, the web console.

Belongs here: reading a request, calling a flow, answering. Does not belong here: any work of the engine itself.
"""
