/* siltstone   m.sql
table: mart.m
hold_on: daily_gat
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
checks:
  - { row_count: { min: 1 }, tag: daily_gate }
*/
select day, count(*) as n
  from shop.orders
 group by day
