-- For keys of which equal values may be written differently (1.0 and 1.00, -0 and 0, citext): the
-- batch tells them apart, the table does not.

-- statement: collapse
-- Of what happened to equal keys the last counts, in a versions table for each transaction. What goes
-- are deletes: at most one of the keys is there at a time.
delete from {{ stage }}
 where ctid in (
       select v.tid
         from (select s.ctid as tid,
                      row_number() over (
                          partition by {% for k in key %}{{ ", " if not loop.first }}{{ k.value }}{% endfor %}{{ ", s._seq" if chained }}
                          order by s._seq desc, s._ord desc, s._op = 'd') as nth
                 from {{ stage }} s) v
        where v.nth > 1)

