/* siltstone                                              sql/bench/days.sql
table: bench.days
key: [day]
refresh_by: day
max_age: 1s
reads:
  mirror.items: { touches: "select (placed_at at time zone 'UTC')::date from changed" }
*/
-- The mart whose freshness the bench measures.
select (placed_at at time zone 'UTC')::date as day, count(*) as items, sum(price)::numeric(15,2) as revenue,
       max(id) as newest
  from mirror.items
 group by 1
