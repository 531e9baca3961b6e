select 'x
