with climatiq_releases as (
    select * from {{ source('climatiq', 'climatiq_releases') }}
),

final as (
    select
        data_version,
        release,
        responded_at
    from climatiq_releases
)

select * from final
