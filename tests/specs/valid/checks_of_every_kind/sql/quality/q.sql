with x as (select 1 as one)
select * from x; -- the end
