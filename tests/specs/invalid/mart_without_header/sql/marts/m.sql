select day, count(*) as n
  from shop.orders
 group by day
