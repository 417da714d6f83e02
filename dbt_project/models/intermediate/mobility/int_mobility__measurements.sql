{#- Beyond these bounds no bike rides and nobody measures: from a micrometre to ten million km. (Or not at all: 0.) -#}
{%- set is_a_length = 'between 1e-9 and 1e7' -%}

with events as (
    select * from {{ ref('int_mobility__events') }}
),

bike_models as (
    select * from {{ ref('dim_bike_model') }}
),

emission_factors as (
    select * from {{ ref('dim_emission_factor') }}
),

climatiq_estimates as (
    select * from {{ ref('int_mobility__climatiq_estimates') }}
),

-- An accepted event without measurements is no row; a rejected one is, so that it is seen.
measurements as (
    select
        events.*,
        coalesce(measurement.place, 0) as place,
        (measurement.content ->> 'vehicle_id')::int as vehicle_id,
        (measurement.content ->> 'product_id')::int as bike_model_id,
        (measurement.content ->> 'journey_km')::float8 as journey_km,
        (measurement.content ->> 'total_km')::float8 as total_km
    from events
    left join lateral jsonb_array_elements(events.measurements) with ordinality as measurement (content, place)
        on true
    where measurement.place is not null or not events.is_accepted
),

-- With other lengths nothing is computed: Postgres stops at a product that a double can't hold.
checked as (
    select
        *,
        case when journey_km = 0 or journey_km {{ is_a_length }} then journey_km end as possible_journey_km,
        case when total_km = 0 or total_km {{ is_a_length }} then total_km end as possible_total_km
    from measurements
),

-- Left joins: a measurement is never lost, an unknown model or factor makes its numbers null.
priced as (
    select
        checked.*,
        bike_models.bike_model_key,
        bike_models.scope1_kg_co2e_per_km,
        -- Certificates take the market-based figure toward zero, never below: what is below is avoided elsewhere.
        -- (`greatest` and `least` would make zero of what is not known.)
        case
            when bike_models.scope2_kg_co2e_per_km > 0 then bike_models.scope2_kg_co2e_per_km
            when bike_models.scope2_kg_co2e_per_km <= 0 then 0
        end as scope2_market_kg_co2e_per_km,
        case
            when bike_models.scope2_kg_co2e_per_km < 0 then bike_models.scope2_kg_co2e_per_km
            when bike_models.scope2_kg_co2e_per_km >= 0 then 0
        end as avoided_kg_co2e_per_km,
        -- Climatiq's estimate for the price where there is one, else the seed's factor.
        coalesce(climatiq_estimates.emission_factor_key, emission_factors.emission_factor_key) as emission_factor_key,
        coalesce(climatiq_estimates.kg_co2e, bike_models.purchase_price_usd * emission_factors.kg_co2e_per_usd)
            as production_kg_co2e
    from checked
    left join bike_models
        on
            checked.bike_model_id = bike_models.bike_model_id
            and checked.event_at >= bike_models.valid_from
            and checked.event_at < bike_models.valid_to
    left join emission_factors
        on
            emission_factors.activity = 'motorcycle, bicycle and parts'
            and emission_factors.is_in_use
    left join climatiq_estimates
        on
            round(bike_models.purchase_price_usd::numeric, 2) = climatiq_estimates.price_usd
            and climatiq_estimates.is_in_use
),

computed as (
    select
        *,
        scope1_kg_co2e_per_km * possible_journey_km as scope1_kg_co2e,
        scope2_market_kg_co2e_per_km * possible_journey_km as scope2_market_kg_co2e,
        avoided_kg_co2e_per_km * possible_journey_km as avoided_kg_co2e,
        (scope1_kg_co2e_per_km + scope2_market_kg_co2e_per_km + avoided_kg_co2e_per_km)
        * possible_journey_km as operating_kg_co2e,
        (scope1_kg_co2e_per_km + scope2_market_kg_co2e_per_km + avoided_kg_co2e_per_km)
        * possible_total_km as total_operating_kg_co2e
    from priced
),

final as (
    select
        -- Not a hash: new events then stand beside each other in the key's index, not on a page of their own each.
        -- A content that loses its event may be accepted later: the accepted one keeps the event's own key.
        concat_ws('-', event_id, place, case when not is_accepted then content_hash end) as measurement_key,
        event_id,
        customer_id,
        vehicle_id,
        bike_model_key,
        bike_model_id,
        event_at,
        journey_km,
        total_km,
        scope1_kg_co2e,
        scope2_market_kg_co2e,
        avoided_kg_co2e,
        operating_kg_co2e,
        total_operating_kg_co2e,
        production_kg_co2e,
        -- Negative for a model that emits more than it avoids: it never breaks even.
        -total_operating_kg_co2e / nullif(production_kg_co2e, 0) * 100 as break_even_percent,
        emission_factor_key,
        -- A falling odometer hangs on the bike's other measurements: reject_falling_odometers.
        case
            when not is_accepted then 'conflicting_content'
            when possible_journey_km is null or possible_total_km is null then 'impossible_km'
            when event_at > sent_at + interval '1 day' then 'future_time'
            when bike_model_key is null then 'unknown_bike_model'
        end as rejection_reason,
        source_topic,
        source_partition,
        source_offset
    from computed
)

select * from final
