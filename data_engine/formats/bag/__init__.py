"""Recordings of robot middleware: ROS 1 bags, MCAP files and ROS 2 bags, as channels of stamped messages.

:mod:`.files` opens any of the three as one :class:`~data_engine.formats.bag.files.Bag`; :mod:`.codec` reads fields out
of a message; :mod:`.aligned` brings channels of different rates onto one clock. Nothing here knows of columns: that is
:mod:`data_engine.formats.bags`.

A message's definition is data and stays data: it is parsed into tables that a small interpreter follows. No code is
made of it and none is run, whatever a stranger's bag defines.
"""
