"""Apache Superset: its environment, its configuration, and the dashboards, which are files here.

It runs in an environment of its own, whose packages clash with ours. `superset_config` and `inside` run there, with
Superset's Python; the other modules run in ours and import nothing of it.
"""
