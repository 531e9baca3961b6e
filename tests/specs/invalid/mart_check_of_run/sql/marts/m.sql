/* siltstone   m.sql
table: mart.m
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
checks:
  - { row_count: { min: 1 }, scope: run }
*/
select day, count(*) as n
  from shop.orders
 group by day
