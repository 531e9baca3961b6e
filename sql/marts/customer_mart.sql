/* siltstone                                              sql/marts/customer_mart.sql
table: mart.customer_mart
key: [user_id]
refresh_by: user_id
max_age: 5s
reads:
  cleansed.dim_users:   { when: [user_id, is_current], touches: "select user_id from changed" }
  cleansed.fact_orders: { touches: "select user_id from changed" }
today:                              # depends on the day it is looked at, so that no row changes at midnight
  days_since_last_order: current_date - m.last_order_date
*/
select u.user_id,
       min(o.order_date)               as first_order_date,
       max(o.order_date)               as last_order_date,
       count(o.order_id)               as total_orders,
       coalesce(sum(o.total_amount), 0)::numeric(15,2) as total_spent,
       case when sum(o.total_amount) > 1000 then 'VIP'
            when sum(o.total_amount) > 100 then 'Regular'
            else 'New' end             as customer_segment,
       (avg(o.total_amount) * 12)::numeric(15,2) as clv_30d
  from cleansed.dim_users u
  left join cleansed.fact_orders o using (user_id)
 where u.is_current
 group by u.user_id
