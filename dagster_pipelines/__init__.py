"""Assets, checks, jobs and resources: one graph from topic to view, with keys [schema, table].

Here belong: what is an asset and what it depends on. Thin: the work is done by ingest, dbt and ml, which are only
called. Not here: SQL, features, anything about a topic's fields.
"""
