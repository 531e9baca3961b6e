-- The bench's table, and the procedure that changes it: 4 inserts, 5 updates and 1 delete a
-- transaction. A key that 4 divides is deleted at some time and never updated, so that every
-- statement finds its row.
create table public.items (
  id        bigint primary key,
  quantity  integer not null,
  name      text not null,
  note      text,
  price     numeric(12,2) not null,
  placed_at timestamptz not null
);

create schema bench;

-- One of a thousand days.
create function bench.moment(n bigint) returns timestamptz language sql immutable as $$
  select timestamptz '2023-01-01 00:00+00' + interval '1 day' * (n % 1000) + interval '1 second' * (n % 86399)
$$;

create procedure bench.fill(rows bigint) language sql as $$
  insert into public.items
  select n, n * 7919 % 1000, 'item ' || n, md5(n::text), n * 31 % 1000000 / 100.0, bench.moment(n)
    from generate_series(1, rows) n
$$;

-- Transactions number `first` to `last` on a table that was filled with `rows`; one update in twenty
-- moves its row to another day.
create procedure bench.change(first bigint, last bigint, rows bigint) language plpgsql as $$
declare
  keys bigint[];
begin
  for t in first..last loop
    insert into public.items
    select rows + t * 4 - k, t % 1000, 'item ' || t, md5(t::text), t % 1000000 / 100.0, bench.moment(t * 17 + k)
      from generate_series(0, 3) k;
    keys := array(select 4 * floor(random() * (rows / 4))::bigint + 1 + floor(random() * 3)::bigint
                    from generate_series(1, 5));
    update public.items
       set quantity = quantity + 1, note = md5((t * 10 + id)::text), price = price + 1,
           placed_at = case when random() < 0.05 then bench.moment(t * 13 + id) else placed_at end
     where id = any (keys);
    delete from public.items where id = 4 * (1 + t * 7919 % (rows / 4));
    commit;
  end loop;
end $$;
