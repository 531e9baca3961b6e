/* siltstone                                              sql/marts/inventory_mart.sql
table: mart.inventory_mart
key: [product_id]
materialized: true                  # computed as a whole, CONCURRENTLY: readers never wait
max_age: 10s
reads:
  cleansed.dim_products: {}
  cleansed.fact_orders:  { when: [product_id, quantity, total_amount] }
*/
select p.product_id,
       p.sku,
       p.product_name,
       p.category,
       p.price,
       p.status,
       count(o.order_id)               as total_orders,
       coalesce(sum(o.quantity), 0)    as total_quantity_sold,
       coalesce(sum(o.total_amount), 0)::numeric(15,2) as total_revenue,
       avg(o.total_amount)::numeric(10,2) as avg_order_value
  from cleansed.dim_products p
  left join cleansed.fact_orders o using (product_id)
 group by 1, 2, 3, 4, 5, 6
