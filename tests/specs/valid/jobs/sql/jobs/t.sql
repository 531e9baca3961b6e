delete from mart.t where day = :'ds';
insert into mart.t select date :'ds';
