/* siltstone
table: mart.sales
key: [day]
refresh_by: day
reads:
  shop.orders: { touches: "select day from changed" }
*/
select day, count(*) as n from shop.orders group by day
