"""The warehouse's schemas, tables and grants that ingestion owns. No models: those are dbt's."""
