/* siltstone                                              sql/marts/sales_mart.sql
table: mart.sales_mart
key: [sale_date, product_category, user_country]
refresh_by: sale_date               # a column that the orders own: two dimensions that move at once stay right
max_age: 5s
reads:
  cleansed.fact_orders:  { touches: "select order_date from changed" }
  cleansed.dim_products: { when: [category], touches: "select o.order_date from cleansed.fact_orders o join changed c using (product_id)" }
  cleansed.dim_users:    { when: [country],  touches: "select o.order_date from cleansed.fact_orders o join changed c using (user_id)" }
*/
select o.order_date as sale_date,
       coalesce(p.category, 'unknown') as product_category,
       coalesce(u.country, 'unknown')  as user_country,
       count(*)                        as total_orders,
       sum(o.total_amount)::numeric(15,2) as total_revenue,
       avg(o.total_amount)::numeric(10,2) as avg_order_value,
       count(distinct o.user_id)       as unique_customers,
       (sum(o.total_amount) / nullif(count(distinct o.user_id), 0))::numeric(10,2) as revenue_per_customer
  from cleansed.fact_orders o
  left join cleansed.dim_products p using (product_id)
  left join cleansed.dim_users u on u.user_id = o.user_id and u.is_current
 group by 1, 2, 3
