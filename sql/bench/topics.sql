-- The table that topics of the bench feed, its rows as they are before the backlog, and the digest by which
-- copies are compared. A row is made of its key and a number `n`, the same way as src/bench/topics/change.rs
-- makes it.
create schema bench;

create function bench.item(id bigint, n bigint)
returns table (id bigint, quantity integer, name text, note text, price numeric(12,2), placed_at timestamptz)
language sql immutable as $$
  select $1, ($2 % 1000)::integer, 'item ' || $1, lpad(($2 * 7919 + $1)::text, 32, '0'),
         ($2 % 1000000 / 100.0)::numeric(12,2),
         timestamptz '2023-01-01 00:00+00' + interval '1 day' * ($2 % 1000) + interval '1 second' * ($2 % 86399)
$$;

-- The rows behind the backlog, by their numbers.
create table bench.expected (id bigint primary key, n bigint not null);

create function bench.digest(rows text) returns text language plpgsql as $$
declare
  told text;
begin
  execute 'select count(*) || '' rows, digest '' || coalesce(sum(hashtextextended('
    'row(i.id, quantity, name, note, price, placed_at)::text, 0)::numeric), 0) from ' || rows into told;
  return told;
end $$;
