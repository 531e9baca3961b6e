/* siltstone
table: mart.sales_mart
*/
select 1
