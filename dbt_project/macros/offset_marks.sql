{# Offsets are the watermark (docs/decisions: dbt-offset-marks). What a model reads by offset is found in the graph:
   a raw table whose source has a topic, through views, or another model that keeps marks. #}


{# Rows of `relation` that this model has not read: between the marks that its run has opened. `relation` has
   source_partition and source_offset. To be used in `from`.
   The bounds are read by the SQL (dbt renders it before the marks are opened), and `offset 0` makes Postgres look
   up each partition's interval in the index: a plain join scans the whole log. #}
{% macro new_rows(relation) -%}
    {{- rows_between_marks(relation, topic_of(relation)) -}}
{%- endmacro %}


{# All rows of `relation` up to the upper bound of this model's run, those that it has read before too: for a small log
   that is read whole (`rebuild_all`). #}
{% macro all_rows(relation) -%}
    {{- rows_between_marks(relation, topic_of(relation), lower_bound='0') -}}
{%- endmacro %}


{# The topic from which a parent of this model is read. #}
{% macro topic_of(relation) %}
    {% set topics = [] %}
    {% if execute %}
        {% for node_id in model.depends_on.nodes if graph_node(node_id).relation_name == relation | string %}
            {% do topics.extend(topics_of(node_id)) %}
        {% endfor %}
        {% if topics | length != 1 %}
            {% do exceptions.raise_compiler_error(
                'new_rows and all_rows need a relation that is read from one topic; ' ~ relation ~ ' has ' ~ topics
            ) %}
        {% endif %}
    {% endif %}
    {% do return(topics | first) %}
{% endmacro %}


{% macro rows_between_marks(relation, topic, lower_bound='mark.next_offset') -%}
    (
        select log.*
        from ingest.model_offsets as mark
        cross join lateral (
            select *
            from {{ relation }} as entry
            where
                entry.source_partition = mark.partition
                and entry.source_offset >= {{ lower_bound }}
                and entry.source_offset < mark.upper_offset
            offset 0
        ) as log
        where mark.model = '{{ model_name(this) }}' and mark.topic = '{{ topic }}'
    )
{%- endmacro %}


{# Where a row stands in its topic, to be compared: the smallest wins, replayed dead letters come last. #}
{% macro log_position(alias) -%}
    ({{ alias }}.source_partition < 0, {{ alias }}.source_partition, {{ alias }}.source_offset)
{%- endmacro %}


{# A model's name in ingest.model_offsets, and in its advisory lock. #}
{% macro model_name(relation) -%}
    {{ relation.schema }}.{{ relation.identifier or relation.alias }}
{%- endmacro %}


{% macro graph_node(node_id) %}
    {% do return(graph.sources[node_id] if node_id in graph.sources else graph.nodes[node_id]) %}
{% endmacro %}


{# The topics below a node, down to raw: through views and models that keep marks. #}
{% macro topics_of(node_id) %}
    {% set node = graph_node(node_id) %}
    {% set topics = [] %}
    {% if node.resource_type == 'source' %}
        {% do topics.extend([node.config.meta.topic] if node.config.meta.topic else []) %}
    {% elif node.config.materialized in ['view', 'ephemeral', 'incremental'] %}
        {% for parent_id in node.depends_on.nodes %}
            {% for topic in topics_of(parent_id) if topic not in topics %}
                {% do topics.append(topic) %}
            {% endfor %}
        {% endfor %}
    {% endif %}
    {% do return(topics) %}
{% endmacro %}


{# The nodes that stand below a node's views: what it really reads. #}
{% macro inputs_of(node) %}
    {% set found = {} %}
    {% for node_id in node.depends_on.nodes %}
        {% set parent = graph_node(node_id) %}
        {% if parent.config.materialized in ['view', 'ephemeral'] %}
            {% for input in inputs_of(parent) %}
                {% do found.update({input.unique_id: input}) %}
            {% endfor %}
        {% else %}
            {% do found.update({node_id: parent}) %}
        {% endif %}
    {% endfor %}
    {% do return(found.values() | sort(attribute='unique_id') | list) %}
{% endmacro %}


{# Lock this model for the transaction, and what it reads against being built meanwhile. Waits go from child to
   parent alone, so they can't form a circle. #}
{% macro take_locks(inputs=[]) %}
    {% do query("set local timezone = 'UTC'") %}
    {% do query("select pg_advisory_xact_lock(hashtextextended('scopehouse model " ~ model_name(this) ~ "', 0))") %}
    {% for input in inputs if input.config.materialized in ['table', 'incremental'] %}
        {% do query(
            "select pg_advisory_xact_lock_shared(hashtextextended('scopehouse model " ~ model_name(input) ~ "', 0))"
        ) %}
    {% endfor %}
{% endmacro %}


{# Store both bounds of this run: from what the model has read (nothing, when it is rebuilt) to what raw holds, or,
   where a topic is read through other models, to what all of those have read. #}
{% macro open_marks(inputs, rebuild) %}
    {% set name = model_name(this) %}
    {% if rebuild %}
        {% do query("delete from ingest.model_offsets where model = '" ~ name ~ "'") %}
    {% endif %}
    {% set logs = {} %}
    {% set parents = {} %}
    {% for input in inputs %}
        {% for topic in topics_of(input.unique_id) %}
            {% if input.resource_type == 'source' %}
                {% do logs.update({topic: input.relation_name}) %}
            {% else %}
                {% do parents.setdefault(topic, []).append(model_name(input)) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {% for topic, relation in logs.items() %}
        {% do query("select ingest.summarise_tail('" ~ relation ~ "'::regclass)") %}
    {% endfor %}
    {% for topic in logs.keys() | list + parents.keys() | list | unique | list %}
        {% set upper %}
            {% if topic in parents %}
                select partition, min(next_offset) as next_offset
                from ingest.model_offsets
                where topic = '{{ topic }}' and model in ('{{ parents[topic] | join("', '") }}')
                group by partition
                having count(*) = {{ parents[topic] | length }}
            {% else %}
                select partition, next_offset from ingest.offsets where topic = '{{ topic }}'
            {% endif %}
        {% endset %}
        {% do query(
            "insert into ingest.model_offsets (model, topic, partition, next_offset, upper_offset) "
            ~ "select '" ~ name ~ "', '" ~ topic ~ "', partition, 0, next_offset from (" ~ upper ~ ") as bounds "
            ~ "on conflict (model, topic, partition) do update "
            ~ "set upper_offset = excluded.upper_offset, updated_at = now()"
        ) %}
    {% endfor %}
    {% set behind = query(
        "select topic from ingest.model_offsets where model = '" ~ name ~ "' and upper_offset < next_offset"
    ) %}
    {% if behind | length > 0 %}
        {% do exceptions.raise_compiler_error(
            name ~ ' has read more of topic ' ~ behind[0][0] ~ ' than there is: the topic or what is read of it was '
            ~ 'made anew; run `dbt run --full-refresh --select ' ~ this.identifier ~ '`.'
        ) %}
    {% endif %}
{% endmacro %}


{% macro close_marks() %}
    {% do query(
        "update ingest.model_offsets set next_offset = upper_offset, updated_at = now() "
        ~ "where model = '" ~ model_name(this) ~ "' and next_offset < upper_offset"
    ) %}
{% endmacro %}


{# Whether anything is between the marks that this run has opened. #}
{% macro has_new_offsets() %}
    {% set open = query(
        "select 1 from ingest.model_offsets where model = '" ~ model_name(this) ~ "' and next_offset < upper_offset limit 1"
    ) %}
    {% do return(open | length > 0) %}
{% endmacro %}


{# True when what the model reads without marks (seeds, models rebuilt in place: all that has no topic) is not what it
   was built from; the new fingerprint is stored in this transaction. Histories are followed by their versions. #}
{% macro references_changed(inputs) %}
    {% set texts = [] %}
    {% set histories = histories_among(inputs) | map(attribute='unique_id') | list %}
    {% for input in inputs if not topics_of(input.unique_id) and input.unique_id not in histories %}
        {% do texts.append("(select string_agg(r::text, chr(10) order by r::text) from " ~ input.relation_name ~ " as r)") %}
    {% endfor %}
    {% if not texts %}
        {% do return(false) %}
    {% endif %}
    {% set changed = query(
        "insert into ingest.model_references as stored (model, fingerprint) "
        ~ "select '" ~ model_name(this) ~ "', md5(concat_ws(chr(30), " ~ texts | join(', ') ~ ")) "
        ~ "on conflict (model) do update set fingerprint = excluded.fingerprint, updated_at = now() "
        ~ "where stored.fingerprint <> excluded.fingerprint returning model"
    ) %}
    {% do return(changed | length > 0) %}
{% endmacro %}
