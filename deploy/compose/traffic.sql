-- What happens in the shop, some twenty transactions a second until it is stopped.
select traffic.place_order(a, b), traffic.confirm_payment(b, a), traffic.change_product(a, b),
       traffic.change_user(b, a)
  from (select (random() * 1e9)::bigint as a, (random() * 1e9)::bigint as b) dice
\watch 0.05
