/* siltstone   m.sql
table: mart.m
hold_on: gate
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
checks:
  - { row_count: { min: 1 }, tag: gate }
*/
select day, count(*) as n
  from shop.orders
 group by day
