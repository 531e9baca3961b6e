-- Fills the shop. Settings of the session: shop.rows (all rows together, without audit_log),
-- shop.seed (from -1 to 1) and shop.today (the newest day). Equal settings give equal rows.
set max_parallel_workers_per_gather = 0;
select setseed(current_setting('shop.seed')::float8);

create temp table size as
select greatest(r * 15 / 100, 20)   as users,
       greatest(r * 15 / 1000, 10)  as products,
       greatest(r * 45 / 100, 50)   as orders,
       greatest(r * 36 / 100, 40)   as payments,
       greatest(r - r * 15 / 100 - r * 15 / 1000 - r * 45 / 100 - r * 36 / 100, 20) as events,
       current_setting('shop.today')::date as today
  from (select current_setting('shop.rows')::bigint as r) given;

insert into public.users (id, email, full_name, password_hash, date_of_birth, country,
                          subscription_tier, settings, interests, bio, created_at, updated_at)
select n,
       format('user%s@shop.example', n),
       case when n % 40 = 0 then null else
         (array['Ada','Ben','Chiara','Dmitri','Elif','Fatou','Goran','Hana'])[1 + floor(8 * a)::int]
         || ' ' ||
         (array['Álvarez','Brandt','Çelik','Dubois','Eriksen','Fischer','Øvergård','Zając'])[1 + floor(8 * b)::int]
       end,
       md5('password' || n),
       case when n % 15 = 0 then null else date '1950-01-01' + floor(20000 * c)::int end,
       case when n % 25 = 0 then null else
         (array['DE','FR','PL','IT','ES','NL','SE','TR'])[1 + floor(8 * b * c)::int] end,
       (array['free','free','free','basic','premium'])[1 + floor(5 * d)::int]::public.tier,
       jsonb_build_object('newsletter', a > 0.5, 'theme', case when b > 0.8 then 'dark' else 'light' end),
       (array['books','music','garden','bikes','games'])[1 + floor(3 * c)::int : 2 + floor(4 * d)::int],
       -- every twentieth is some 3 to 6 kB long
       case when n % 20 = 0 then repeat(md5(n::text) || ' ', 100 + floor(80 * a)::int)
            when n % 3 = 0 then null
            else 'Buys since ' || n end,
       joined, joined
  from (select n, random() as a, random() as b, random() as c, random() as d,
               size.today - interval '730 days' * (1 - n / (size.users + 1.0)) as joined
          from size, generate_series(1, size.users) n) drawn
 order by n;

insert into public.products (id, sku, product_name, category, price, status, stock, attributes,
                             tags, created_at, updated_at)
select n,
       format('SKU-%s', lpad(n::text, 6, '0')),
       (array['Small','Large','Red','Blue','Quiet','Folding'])[1 + floor(6 * a)::int] || ' ' ||
       (array['lamp','chair','kettle','tent','drum','shelf','bell'])[1 + floor(7 * b)::int],
       case when n % 50 = 0 then null else
         (array['home','outdoor','music','kitchen'])[1 + floor(4 * b)::int] end,
       round((5 + 195 * c * c)::numeric, 2),
       case when d > 0.95 then 'retired' else 'active' end,
       floor(500 * d)::int,
       jsonb_build_object('weight_g', floor(5000 * a)::int, 'colours', jsonb_build_array('red', 'blue')),
       (array['new','sale','eco'])[1 : floor(4 * a)::int],
       added, added
  from (select n, random() as a, random() as b, random() as c, random() as d,
               size.today - interval '700 days' * (1 - n / (size.products + 1.0)) as added
          from size, generate_series(1, size.products) n) drawn
 order by n;

-- sixty days of orders, more of them by the users who came early
insert into public.orders (id, user_id, product_id, order_date, quantity, unit_price, total_amount,
                           status, created_at, updated_at)
select n, drawn.user_id, p.id, placed::date, pieces, p.price, p.price * pieces,
       (array['placed','paid','paid','shipped','shipped','shipped','returned'])[1 + floor(7 * c)::int]::public.order_status,
       placed, placed
  from (select n,
               1 + floor(size.users * a * a)::bigint     as user_id,
               1 + floor(size.products * b)::bigint      as product_id,
               1 + floor(4 * a * b)::int                 as pieces,
               c,
               size.today - interval '60 days' * (1 - n / (size.orders + 1.0)) as placed
          from size,
               (select n, random() as a, random() as b, random() as c
                  from size, generate_series(1, size.orders) n) dice) drawn
  join public.products p on p.id = drawn.product_id
 order by n;

insert into public.payments (id, order_id, payment_date, amount, payment_method, status, created_at,
                             processed_at)
select o.id, o.id, o.order_date, o.total_amount,
       (array['card','transfer','wallet'])[1 + (o.id % 3)::int],
       case when o.id % 19 = 0 then 'failed' when o.id % 11 = 0 then 'pending' else 'succeeded' end,
       o.created_at,
       case when o.id % 11 = 0 then null else o.created_at + interval '90 seconds' end
  from size
  join public.orders o on o.id <= size.payments
 order by o.id;

-- every eighth row stands twice
insert into public.events (user_id, kind, details, happened_at)
select 1 + (n - (n % 8 = 7)::int) % size.users,
       (array['click','search','view'])[1 + ((n - (n % 8 = 7)::int) % 3)::int],
       jsonb_build_object('page', (n - (n % 8 = 7)::int) % 100),
       size.today - interval '1 second' * (n - (n % 8 = 7)::int)
  from size, generate_series(1, size.events) n;

insert into public.audit_log (who, what, at)
select 'admin', 'price list ' || n, size.today - interval '1 day' * n
  from size, generate_series(1, 20) n;

select setval('public.users_id_seq', (select max(id) from public.users)),
       setval('public.products_id_seq', (select max(id) from public.products)),
       setval('public.orders_id_seq', (select max(id) from public.orders)),
       setval('public.payments_id_seq', (select max(id) from public.payments));
drop table size;
analyze public.users, public.products, public.orders, public.payments, public.events;
