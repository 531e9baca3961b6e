-- What happens in the shop: one function a kind of transaction, so that a transaction is one round
-- trip. Each draws its rows from two random numbers that are not negative and returns how many rows
-- it has changed; none where the rows it has drawn are gone. Locks are taken in the order of keys
-- where that is possible; what deadlocks all the same is tried again by the caller.
create schema traffic;

create function traffic.place_order(a bigint, b bigint) returns integer language plpgsql as $$
declare
  pieces integer := 1 + b % 3;
  cost numeric;
  number bigint;
begin
  select price into cost from public.products
   where id = 1 + b % (select max(id) from public.products);
  if not found then return 0; end if;
  insert into public.orders (user_id, product_id, order_date, quantity, unit_price, total_amount)
  values (1 + a % (select max(id) from public.users),
          1 + b % (select max(id) from public.products), current_date, pieces, cost, cost * pieces)
  returning id into number;
  insert into public.payments (order_id, payment_date, amount, payment_method)
  values (number, current_date, cost * pieces, (array['card','transfer','wallet'])[1 + a % 3]);
  return 2;
end $$;

create function traffic.confirm_payment(a bigint, b bigint) returns integer language plpgsql as $$
declare
  paid bigint;
begin
  update public.payments
     set status = case when b % 19 = 0 then 'failed' else 'succeeded' end, processed_at = now()
   where id = 1 + a % (select max(id) from public.payments)
  returning order_id into paid;
  if not found then return 0; end if;
  update public.orders
     set status = (array['paid','shipped','returned'])[1 + b % 3]::public.order_status,
         updated_at = now()
   where id = paid;
  return case when found then 2 else 1 end;
end $$;

create function traffic.change_product(a bigint, b bigint) returns integer language plpgsql as $$
begin
  update public.products
     set price = round(5 + (b % 20000) / 100.0, 2),
         stock = stock - 1,
         category = case when b % 100 = 0 then null when b % 100 = 1 then 'outdoor' else category end,
         tags = case when b % 10 = 0 then array['sale', 'a "b"', null] else tags end,
         attributes = case when b % 10 = 1 then attributes || jsonb_build_object('rev', b % 1000)
                           else attributes end,
         updated_at = now()
   where id = 1 + a % (select max(id) from public.products);
  return found::int;
end $$;

-- leaves a long biography alone, except now and then
create function traffic.change_user(a bigint, b bigint) returns integer language plpgsql as $$
begin
  update public.users
     set country = case when b % 3 = 0
                        then (array['DE','FR','PL','IT','ES', null])[1 + b / 3 % 6] else country end,
         subscription_tier = case when b % 3 = 1
                                  then (array['free','basic','premium'])[1 + b / 3 % 3]::public.tier
                                  else subscription_tier end,
         settings = case when b % 3 = 2 then settings || jsonb_build_object('visits', b % 1000)
                         else settings end,
         bio = case when b % 50 = 0 then repeat(md5(b::text), 100 + (b % 50)::int) else bio end,
         updated_at = now()
   where id = 1 + a % (select max(id) from public.users);
  return found::int;
end $$;

-- three changes of one row in one transaction, of which the last may take back the first
create function traffic.change_user_thrice(a bigint, b bigint) returns integer language plpgsql as $$
declare
  chosen bigint := 1 + a % (select max(id) from public.users);
  before varchar;
begin
  select country into before from public.users where id = chosen for update;
  if not found then return 0; end if;
  update public.users set country = 'NO', updated_at = now() where id = chosen;
  update public.users
     set subscription_tier = (array['free','basic','premium'])[1 + b % 3]::public.tier
   where id = chosen;
  update public.users set country = case when b % 2 = 0 then before else 'CH' end where id = chosen;
  return 3;
end $$;

-- one user in twenty leaves and comes back
create function traffic.leave_user(a bigint, b bigint) returns integer language plpgsql as $$
begin
  delete from public.users where id = a % (select max(id) from public.users) / 20 * 20 + 7;
  return found::int;
end $$;

create function traffic.return_user(a bigint, b bigint) returns integer language plpgsql as $$
declare
  chosen bigint := a % (select max(id) from public.users) / 20 * 20 + 7;
begin
  insert into public.users (id, email, full_name, password_hash, country, bio)
  values (chosen, format('user%s@shop.example', chosen), 'Back Again', md5(b::text),
          (array['DE','FR','PL', null])[1 + b % 4],
          case when b % 5 = 0 then repeat(md5(chosen::text), 90) end)
  on conflict do nothing;
  return found::int;
end $$;

-- deleted and inserted in one transaction
create function traffic.renew_product(a bigint, b bigint) returns integer language plpgsql as $$
declare
  gone public.products;
begin
  delete from public.products where id = 1 + a % (select max(id) from public.products)
  returning * into gone;
  if not found then return 0; end if;
  gone.price := round(5 + (b % 20000) / 100.0, 2);
  insert into public.products values (gone.*);
  return 2;
end $$;

create function traffic.delete_payment(a bigint, b bigint) returns integer language plpgsql as $$
begin
  delete from public.payments where id = 1 + a % (select max(id) from public.payments);
  return found::int;
end $$;

create function traffic.renumber_order(a bigint, b bigint) returns integer language plpgsql as $$
declare
  old bigint := 1 + a % (select max(id) from public.orders);
  new bigint := nextval('public.orders_id_seq');
  moved integer;
begin
  update public.orders set id = new where id = old;
  if not found then return 0; end if;
  update public.payments set order_id = new where order_id = old;
  get diagnostics moved = row_count;
  return 1 + moved;
end $$;

create function traffic.renumber_user(a bigint, b bigint) returns integer language plpgsql as $$
declare
  old bigint := 1 + a % (select max(id) from public.users);
  new bigint := nextval('public.users_id_seq');
  moved integer;
begin
  update public.users set id = new where id = old;
  if not found then return 0; end if;
  update public.orders set user_id = new where user_id = old;
  get diagnostics moved = row_count;
  return 1 + moved;
end $$;

-- two rows change their keys by way of a third one
create function traffic.swap_products(a bigint, b bigint) returns integer language plpgsql as $$
declare
  last bigint := (select max(id) from public.products);
  one bigint := least(1 + a % last, 1 + b % last);
  other bigint := greatest(1 + a % last, 1 + b % last);
  changed integer := 2;
begin
  if one = other then return 0; end if;
  update public.products set id = -one where id = one;
  if not found then return 0; end if;
  update public.products set id = one where id = other;
  if found then changed := 3; end if;
  update public.products set id = other where id = -one;
  return changed;
end $$;

create function traffic.swap_users(a bigint, b bigint) returns integer language plpgsql as $$
declare
  last bigint := (select max(id) from public.users);
  one bigint := least(1 + a % last, 1 + b % last);
  other bigint := greatest(1 + a % last, 1 + b % last);
  changed integer := 2;
begin
  if one = other then return 0; end if;
  update public.users set id = -one where id = one;
  if not found then return 0; end if;
  update public.users set id = one where id = other;
  if found then changed := 3; end if;
  update public.users set id = other where id = -one;
  return changed;
end $$;

-- the order moves to another partition of the warehouse's fact table
create function traffic.move_order(a bigint, b bigint) returns integer language plpgsql as $$
begin
  update public.orders
     set order_date = least(order_date + (b % 7)::int - 3, current_date), updated_at = now()
   where id = 1 + a % (select max(id) from public.orders);
  return found::int;
end $$;

-- an order that is placed and taken back by a savepoint, between two changes that stay
create function traffic.half_rolled_back(a bigint, b bigint) returns integer language plpgsql as $$
declare
  changed integer := traffic.change_product(a, b);
begin
  begin
    perform traffic.place_order(a, b), traffic.change_product(a, b + 1);
    raise exception 'taken back';
  exception when raise_exception then null;
  end;
  return changed + traffic.change_product(a, b + 2);
end $$;

create function traffic.add_event(a bigint, b bigint) returns integer language plpgsql as $$
begin
  -- one or two equal rows
  insert into public.events (user_id, kind, details)
  select 1 + a % (select max(id) from public.users), 'click', jsonb_build_object('page', b % 100)
    from generate_series(0, b % 2);
  return 1 + b % 2;
end $$;

-- one row, also where it has equals
create function traffic.change_event(a bigint, b bigint) returns integer language plpgsql as $$
begin
  update public.events
     set details = case when b % 5 = 0 then null else jsonb_build_object('page', b % 100) end
   where ctid = (select ctid from public.events
                  where user_id >= 1 + a % (select max(id) from public.users)
                  order by user_id limit 1);
  return found::int;
end $$;

-- one row, or all rows of its user
create function traffic.delete_event(a bigint, b bigint) returns integer language plpgsql as $$
declare
  chosen bigint;
  changed integer;
begin
  select user_id into chosen from public.events
   where user_id >= 1 + a % (select max(id) from public.users) order by user_id limit 1;
  delete from public.events
   where user_id = chosen
     and (b % 4 = 0 or ctid = (select ctid from public.events where user_id = chosen limit 1));
  get diagnostics changed = row_count;
  return changed;
end $$;

-- some 20,000 rows in one transaction
create function traffic.change_many(a bigint, b bigint) returns integer language plpgsql as $$
declare
  first bigint;
  changed integer;
begin
  if b % 2 = 0 then
    first := a % greatest((select max(id) from public.payments) - 20000, 1);
    update public.payments set processed_at = now() where id > first and id <= first + 20000;
  else
    first := a % greatest((select max(id) from public.orders) - 20000, 1);
    update public.orders set updated_at = now() where id > first and id <= first + 20000;
  end if;
  get diagnostics changed = row_count;
  return changed;
end $$;
