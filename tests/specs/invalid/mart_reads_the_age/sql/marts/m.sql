/* siltstone   m.sql
table: mart.m
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
*/
select day, extract(day from age(day)) as n
  from shop.orders
 group by day
