with offsets as (
    select * from {{ source('ingest', 'offsets') }}
),

dead_letters as (
    select * from {{ source('ingest', 'dead_letters') }}
),

topics as (
    select distinct topic from offsets
),

final as (
    select
        topics.topic,
        coalesce(dead_letters.error_class, 'none') as reason,
        (dead_letters.failed_at at time zone 'UTC')::date as failed_date,
        count(dead_letters.dead_letter_id) as dead_letters,
        count(dead_letters.replayed_at) as replayed_dead_letters,
        max(dead_letters.failed_at) as last_failed_at
    from topics
    left join dead_letters on topics.topic = dead_letters.topic
    group by 1, 2, 3
)

select * from final
