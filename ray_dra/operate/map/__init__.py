"""The map: a read-only web page of racks, gangs and the queue.

`sources.py` asks the cluster or reads a file, `watch.py` keeps the page's state and tells browsers what changes,
`server.py` serves it, `guard.py` refuses who is not to have it, `page/` is what browsers get. Needs the extra `map`
(Starlette and uvicorn), which nothing else imports.
"""
