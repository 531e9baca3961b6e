/* siltstone   m.sql
table: mart.m
hold_on: daily_gate
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
*/
select day, count(*) as n
  from shop.orders
 group by day
