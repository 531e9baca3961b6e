/* siltstone   m.sql
table: mart.m
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
*/
delete from shop.orders
