select 1;
select :'dss';
