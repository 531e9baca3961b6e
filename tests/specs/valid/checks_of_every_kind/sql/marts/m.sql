/* siltstone   m.sql
table: mart.m
hold_on: gate
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
checks:
  - { row_count: { min: 1 } }
  - { unique: [day] }
  - { freshness: { max_age: 1m } }
  - { volume: { per: day, by: day } }
*/
select day, count(*) as n
  from shop.orders
 group by day
