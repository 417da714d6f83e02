with offsets as (
    select * from {{ source('ingest', 'offsets') }}
),

model_offsets as (
    select * from {{ source('ingest', 'model_offsets') }}
),

final as (
    select
        model_offsets.model,
        model_offsets.topic,
        model_offsets.partition as topic_partition,
        offsets.next_offset - model_offsets.next_offset as lag_records,
        model_offsets.updated_at as read_at
    from model_offsets
    inner join offsets
        on
            model_offsets.topic = offsets.topic
            and model_offsets.partition = offsets.partition
)

select * from final
