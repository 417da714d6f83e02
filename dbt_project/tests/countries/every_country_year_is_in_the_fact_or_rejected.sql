-- What came in is never lost, and fact and rejected add up to the latest revisions.
with landed as (
    select distinct
        country,
        year
    from {{ ref('stg_owid__country_years') }}
),

latest_revisions as (
    select
        country,
        year,
        count(*) as revision_count
    from {{ ref('int_countries__latest_revisions') }}
    group by country, year
),

kept as (
    select
        country,
        year
    from {{ ref('fct_country_year_emissions') }}
    union all
    select
        country,
        year
    from {{ ref('rejected_country_years') }}
),

found as (
    select
        country,
        year,
        count(*) as row_count
    from kept
    group by country, year
)

select
    coalesce(landed.country, latest_revisions.country, found.country) as country,
    coalesce(landed.year, latest_revisions.year, found.year) as calendar_year,
    latest_revisions.revision_count,
    found.row_count
from landed
full outer join latest_revisions
    on
        landed.country = latest_revisions.country
        and landed.year = latest_revisions.year
full outer join found
    on
        latest_revisions.country = found.country
        and latest_revisions.year = found.year
where
    latest_revisions.revision_count is null
    or latest_revisions.revision_count is distinct from found.row_count
