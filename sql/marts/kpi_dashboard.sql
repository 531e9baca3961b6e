/* siltstone                                              sql/marts/kpi_dashboard.sql
table: mart.kpi_dashboard
key: [day]
refresh_by: day
max_age: 5s
reads:                              # a day stands beside the one before, so each change touches the next day too
  cleansed.fact_orders:   { touches: "select order_date + n from changed, (values (0), (1)) d (n)" }
  cleansed.fact_payments: { touches: "select payment_date + n from changed, (values (0), (1)) d (n)" }
  cleansed.dim_users:     { when: [created_at, is_current], touches: "select (created_at at time zone 'UTC')::date + n from changed, (values (0), (1)) d (n)" }
*/
select d.day,
       o.orders,
       o.revenue,
       o.avg_order_value,
       o.active_customers,
       u.new_customers,
       p.payment_success_rate,
       o.refunds,
       yo.orders                       as previous_orders,
       yo.revenue                      as previous_revenue,
       yo.avg_order_value              as previous_avg_order_value,
       yo.active_customers             as previous_active_customers,
       yu.new_customers                as previous_new_customers,
       yp.payment_success_rate         as previous_payment_success_rate,
       yo.refunds                      as previous_refunds
  from (select order_date as day from cleansed.fact_orders
        union
        select payment_date from cleansed.fact_payments) d
 cross join lateral (
       select count(*) as orders,
              coalesce(sum(total_amount), 0)::numeric(15,2) as revenue,
              avg(total_amount)::numeric(10,2) as avg_order_value,
              count(distinct user_id) as active_customers,
              count(*) filter (where status = 'returned') as refunds
         from cleansed.fact_orders where order_date = d.day) o
 cross join lateral (
       select (count(*) filter (where status = 'succeeded') / nullif(count(*) filter (where status in ('succeeded', 'failed')), 0)::numeric)::numeric(5,4)
                as payment_success_rate
         from cleansed.fact_payments where payment_date = d.day) p
 cross join lateral (
       select count(*) as new_customers
         from cleansed.dim_users
        where is_current
          and created_at >= d.day::timestamp at time zone 'UTC'
          and created_at < (d.day + 1)::timestamp at time zone 'UTC') u
 cross join lateral (
       select count(*) as orders,
              coalesce(sum(total_amount), 0)::numeric(15,2) as revenue,
              avg(total_amount)::numeric(10,2) as avg_order_value,
              count(distinct user_id) as active_customers,
              count(*) filter (where status = 'returned') as refunds
         from cleansed.fact_orders where order_date = d.day - 1) yo
 cross join lateral (
       select (count(*) filter (where status = 'succeeded') / nullif(count(*) filter (where status in ('succeeded', 'failed')), 0)::numeric)::numeric(5,4)
                as payment_success_rate
         from cleansed.fact_payments where payment_date = d.day - 1) yp
 cross join lateral (
       select count(*) as new_customers
         from cleansed.dim_users
        where is_current
          and created_at >= (d.day - 1)::timestamp at time zone 'UTC'
          and created_at < d.day::timestamp at time zone 'UTC') yu
