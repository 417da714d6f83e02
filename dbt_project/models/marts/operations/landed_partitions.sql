with offsets as (
    select * from {{ source('ingest', 'offsets') }}
),

final as (
    select
        topic,
        partition as topic_partition,
        row_count as landed_records,
        dead_letter_count as dead_letters,
        next_offset,
        stopped_because is not null as is_stopped,
        updated_at as landed_at
    from offsets
    where partition >= 0
)

select * from final
