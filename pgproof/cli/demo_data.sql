-- A small web shop, some hundred megabytes: the same rows on every run.
-- Values come from hashes of the row number, so that nothing depends on random().

\set ON_ERROR_STOP on

create function pick(words text[], n bigint, salt int) returns text
    language sql immutable parallel safe
    return words[1 + abs(hashint8extended(n, salt) % cardinality(words))];

create function number_below(upper_limit bigint, n bigint, salt int) returns bigint
    language sql immutable parallel safe
    return abs(hashint8extended(n, salt) % upper_limit);

begin;

create table customers (
    customer_id  bigint not null,
    name         text not null,
    email        text not null,
    city         text not null,
    joined_on    date not null
);
insert into customers
select n,
       pick('{Ada,Ben,Chloé,Dmitri,Elena,Farid,Grace,Hiro,Ines,Jonas,Kavya,Liam,Mei,Noor,Olga,Pedro}', n, 1)
           || ' ' ||
       pick('{Almeida,Brown,Costa,Dubois,Eriksen,Fischer,García,Haddad,Ito,Jansen,Kowalski,Müller}', n, 2),
       'customer' || n || '@example.com',
       pick('{Accra,Berlin,Chicago,Delhi,Edinburgh,Fukuoka,Genoa,Hanoi,İzmir,Lima,Montréal,Zürich}', n, 3),
       date '2019-01-01' + number_below(2400, n, 4)::int
from generate_series(1, 100000) n;

create table products (
    product_id  bigint not null,
    name        text not null,
    price       numeric(10, 2) not null,
    details     jsonb not null
);
insert into products
select n,
       pick('{Small,Large,Folding,Wooden,Steel,Woollen,Travel,Garden,Kitchen,Reading}', n, 5) || ' ' ||
       pick('{lamp,chair,kettle,table,blanket,shelf,mug,basket,clock,mirror,stool,vase}', n, 6) || ' no. ' || n,
       (199 + number_below(20000, n, 7)) / 100.0,
       jsonb_build_object('colour', pick('{red,green,blue,grey,white,black}', n, 8),
                          'weight_g', 50 + number_below(9000, n, 9), 'in_stock', n % 7 <> 0)
from generate_series(1, 5000) n;

create table orders (
    order_id     bigint not null,
    customer_id  bigint not null,
    ordered_at   timestamptz not null,
    status       text not null
);
insert into orders
select n, 1 + number_below(100000, n, 10),
       timestamptz '2024-01-01 00:00:00Z' + n * interval '79 seconds',
       pick('{new,paid,packed,sent,delivered,delivered,delivered,returned}', n, 11)
from generate_series(1, 600000) n;

create table order_lines (
    order_id    bigint not null,
    line_no     int not null,
    product_id  bigint not null,
    quantity    int not null,
    unit_price  numeric(10, 2) not null
);
insert into order_lines
select 1 + n / 3, 1 + (n % 3)::int, 1 + number_below(5000, n, 12), 1 + number_below(4, n, 13)::int,
       (199 + number_below(20000, n, 7)) / 100.0
from generate_series(0, 1799999) n;

create table reviews (
    review_id    bigint not null,
    product_id   bigint not null,
    customer_id  bigint not null,
    stars        int not null check (stars between 1 and 5),
    comment      text not null
);
insert into reviews
select n, 1 + number_below(5000, n, 14), 1 + number_below(100000, n, 15), 1 + number_below(5, n, 16)::int,
       'Bought this in ' || pick('{spring,summer,autumn,winter}', n, 17) || '. ' ||
       pick('{"It arrived quickly and was packed well.","One corner was scratched, the shop replaced it.",'
            '"Exactly as described, and sturdier than it looks.","Smaller than I had expected, still useful.",'
            '"My second one: the first was a present and is loved."}', n, 18) ||
       ' Reference ' || md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text)
from generate_series(1, 300000) n;

commit;

alter table customers add primary key (customer_id);
alter table products add primary key (product_id);
alter table orders add primary key (order_id);
alter table order_lines add primary key (order_id, line_no);
alter table reviews add primary key (review_id);
create unique index on customers (email);
create index on orders (customer_id);
create index on orders (ordered_at);
create index on reviews (product_id);

create view best_sellers as
select product_id, name, sum(quantity) as sold, sum(quantity * unit_price) as turnover
from order_lines join products using (product_id)
group by product_id, name;

drop function pick, number_below;
vacuum (analyze) customers, products, orders, order_lines, reviews;
