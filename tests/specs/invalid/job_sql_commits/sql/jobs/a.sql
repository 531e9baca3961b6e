delete from t;
commit;
