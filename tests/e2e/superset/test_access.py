"""Who sees what, over HTTP as signed-in users: roles, and scopes of customers by every way that leads to rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from services import scopes
from services.embedded import passwords
from services.embedded.superset import Superset
from services.settings import Settings
from tests.e2e.superset.conftest import scopehouse

MART = "mobility.mart_customer_savings"
PASSWORD = "a reader's"
ROLES = {
    "analyst": ["Analyst"],
    "editor": ["Editor"],
    "north": ["Analyst", "Scope north"],
    "north_editor": ["Editor", "Scope north"],
    "south": ["Analyst", "Scope south"],
    "nowhere": ["Analyst", "Scope nowhere"],
    "both": ["Analyst", "Scope north", "Scope south"],
}


@dataclass
class User:
    """A browser's session, without the browser."""

    http: httpx.Client
    dataset: int = 0
    database: int = 0

    def customers(self) -> tuple[set[int], bool]:
        """The customers that a chart's query shows, and whether the answer was kept from an earlier one."""
        query = {"columns": ["customer_id"], "metrics": ["riders"], "row_limit": 10_000}
        asked = {"datasource": {"id": self.dataset, "type": "table"}, "queries": [query], "force": False}
        result = self.http.post("/api/v1/chart/data", json=asked).raise_for_status().json()["result"][0]
        return {row["customer_id"] for row in result["data"]}, result["cached_dttm"] is not None

    def customers_of_older_chart(self, method: str) -> tuple[set[int], bool]:
        """The same by the way that maps ask."""
        form = {"datasource": f"{self.dataset}__table", "viz_type": "para", "series": "customer_id"}
        rows = 10_000 if method == "POST" else 9_999  # another question, so that neither answers the other
        asked = {"form_data": json.dumps({**form, "metrics": ["riders"], "row_limit": rows})}
        answer = self.http.request(method, "/superset/explore_json/", params=asked).raise_for_status().json()
        return {row["customer_id"] for row in answer["data"]}, answer["is_cached"]

    def filter_values(self) -> set[int]:
        """What a dashboard's filter offers."""
        path = f"/api/v1/datasource/table/{self.dataset}/column/customer_id/values/"
        return set(self.http.get(path).raise_for_status().json()["result"])

    def samples(self) -> set[int]:
        """What the explorer's table of samples shows."""
        asked = {"datasource_type": "table", "datasource_id": self.dataset}
        answer = self.http.post("/datasource/samples", params=asked, json={}).raise_for_status().json()
        return {row["customer_id"] for row in answer["result"]["data"]}

    def lab(self, sql: str) -> httpx.Response:
        """SQL Lab's answer."""
        return self.http.post("/api/v1/sqllab/execute/", json={"database_id": self.database, "sql": sql})


def signed_in(superset: Superset, name: str, password: str) -> User:
    http = httpx.Client(base_url=superset.url, timeout=60, trust_env=False)
    login = {"username": name, "password": password, "provider": "db"}
    token = http.post("/api/v1/security/login", json=login).raise_for_status().json()["access_token"]
    http.headers["Authorization"] = f"Bearer {token}"
    csrf = http.get("/api/v1/security/csrf_token/").raise_for_status().json()["result"]
    del http.headers["Authorization"]
    http.headers["X-CSRFToken"] = csrf
    http.post("/login/", data={"username": name, "password": password, "csrf_token": csrf})
    return User(http)


@pytest.fixture(scope="module")
def users(superset: Superset, warehouse: Settings) -> Iterator[dict[str, User]]:
    """A session of each user, and the administrator's. North has the first third of customers, south the next."""
    ids = sorted(everybody(warehouse))
    third = len(ids) // 3
    scopehouse("scopes", "add", "north", "--customers", f"{ids[0]}-{ids[third - 1]}")
    scopes.add(warehouse, "south", [(ids[third], ids[2 * third])])
    admin = signed_in(superset, "admin", passwords.read(warehouse.state_dir)["superset_admin"])
    for name in ("Scope south", "Scope nowhere"):
        admin.http.post("/api/v1/security/roles/", json={"name": name}).raise_for_status()
    listed = admin.http.get("/api/v1/security/roles/", params={"q": "(page_size:100)"}).raise_for_status().json()
    numbers = {role["name"]: role["id"] for role in listed["result"]}
    found = {"admin": admin}
    for name, roles in ROLES.items():
        words = {"username": name, "first_name": name, "last_name": name, "email": f"{name}@localhost"}
        user = {**words, "password": PASSWORD, "active": True, "roles": [numbers[role] for role in roles]}
        admin.http.post("/api/v1/security/users/", json=user).raise_for_status()
        found[name] = signed_in(superset, name, PASSWORD)
    datasets = admin.http.get("/api/v1/dataset/", params={"q": "(page_size:100)"}).raise_for_status().json()["result"]
    mart = next(one for one in datasets if f"{one['schema']}.{one['table_name']}" == MART)
    for one in found.values():
        one.dataset, one.database = mart["id"], mart["database"]["id"]
    yield found
    for one in found.values():
        one.http.close()
    scopes.remove(warehouse, "north")
    scopes.remove(warehouse, "south")


def everybody(warehouse: Settings, where: str = "true") -> set[int]:
    with psycopg.connect(warehouse.url_of("bi")) as connection:
        rows = connection.execute(f"select customer_id from {MART} where {where}").fetchall()
    return {customer for (customer,) in rows}


@pytest.fixture(scope="module")
def north(warehouse: Settings, users: dict[str, User]) -> set[int]:
    """North's customers."""
    ids = sorted(everybody(warehouse))
    return set(ids[: len(ids) // 3])


@pytest.mark.parametrize("way", ["chart", "older chart", "older chart by its address"])
def test_what_the_cache_keeps_of_all_rows_is_never_shown_to_a_scope(
    way: str, users: dict[str, User], warehouse: Settings, north: set[int]
) -> None:
    def seen(name: str) -> tuple[set[int], bool]:
        if way == "chart":
            return users[name].customers()
        return users[name].customers_of_older_chart("GET" if "address" in way else "POST")

    assert seen("admin")[0] == everybody(warehouse)
    assert seen("admin") == (everybody(warehouse), True)
    assert seen("north") == (north, False)
    assert seen("north") == (north, True)
    assert seen("south")[0].isdisjoint(north)
    assert seen("admin")[0] == everybody(warehouse)


def test_a_scope_sees_its_rows_in_filters_and_samples(users: dict[str, User], north: set[int]) -> None:
    for user in ("admin", "north_editor"):
        filters, samples = users[user].filter_values(), users[user].samples()
    assert filters == samples == north


def test_a_scope_sees_its_rows_in_sql_lab_and_no_way_out(
    users: dict[str, User], north: set[int], warehouse: Settings
) -> None:
    lab = users["north_editor"].lab
    sql = f"select customer_id from {MART}"
    assert {row["customer_id"] for row in users["editor"].lab(sql).json()["data"]} == everybody(warehouse)
    assert {row["customer_id"] for row in lab(sql).json()["data"]} == north
    assert lab("select distinct login from access.scopes").json()["data"] == [{"login": "scopehouse_bi_north"}]
    for refused in (
        "select * from mobility.fct_trip_emissions",
        "select * from mobility.mart_bike_break_even",
        "set role scopehouse_bi; select 1",
        "set session authorization scopehouse_bi; select 1",
    ):
        answer = lab(refused)
        assert answer.status_code >= 400 and "data" not in answer.json(), refused
        assert "permission" in answer.text or "not allowed" in answer.text, answer.text
    # One statement may not leave anything behind for the next.
    assert {row["customer_id"] for row in lab(f"reset all; {sql}").json().get("data", [])} <= north


def test_a_scope_that_is_none_or_not_one_reads_nothing(users: dict[str, User]) -> None:
    for name in ("nowhere", "both"):
        with pytest.raises((httpx.HTTPStatusError, KeyError)):
            users[name].customers()


def test_a_reader_gives_himself_no_other_scope(users: dict[str, User], north: set[int]) -> None:
    me = users["north"].http.get("/api/v1/me/").raise_for_status().json()["result"]["id"]
    for path in ("/api/v1/me/", f"/api/v1/security/users/{me}"):
        users["north"].http.put(path, json={"roles": [1], "username": "admin"})
    assert users["north"].http.post("/api/v1/security/roles/", json={"name": "Scope all"}).status_code == 403
    # The database's entry in Superset is not his to change, and would count for nothing.
    path = f"/api/v1/database/{users['north'].database}"
    assert users["north_editor"].http.put(path, json={"impersonate_user": False}).status_code in (403, 404)
    assert users["north"].customers()[0] == north


def test_an_analyst_reads_and_neither_writes_nor_asks_sql_lab(users: dict[str, User], warehouse: Settings) -> None:
    analyst = users["analyst"]
    assert analyst.customers()[0] == everybody(warehouse)
    assert analyst.lab("select 1 as one").status_code == 403
    chart = {"slice_name": "mine", "viz_type": "table", "datasource_id": analyst.dataset, "datasource_type": "table"}
    for method, path, body in (
        ("post", "/api/v1/chart/", chart),
        ("post", "/api/v1/dashboard/", {"dashboard_title": "mine"}),
        ("post", "/api/v1/dataset/", {"database": analyst.database, "schema": "mobility", "table_name": "mine"}),
        ("put", f"/api/v1/dataset/{analyst.dataset}", {"description": "mine"}),
        ("delete", f"/api/v1/dataset/{analyst.dataset}", None),
    ):
        assert analyst.http.request(method, path, json=body).status_code == 403, path


def test_an_editor_makes_charts_and_asks_sql_lab_but_reaches_marts_only(users: dict[str, User]) -> None:
    editor = users["editor"]
    chart = {"slice_name": "mine", "viz_type": "table", "datasource_id": editor.dataset, "datasource_type": "table"}
    made = editor.http.post("/api/v1/chart/", json=chart).raise_for_status().json()["id"]
    editor.http.delete(f"/api/v1/chart/{made}").raise_for_status()
    for sql in ("select * from ingest.dead_letters", "select * from raw.tracking_events"):
        answer = editor.lab(sql)
        assert answer.status_code >= 400 and "permission denied" in answer.text, answer.text


def test_who_is_not_signed_in_reads_nothing(superset: Superset, users: dict[str, User]) -> None:
    guest = User(httpx.Client(base_url=superset.url, trust_env=False), users["admin"].dataset, 1)
    asked = {"datasource": {"id": guest.dataset, "type": "table"}, "queries": [{"columns": ["customer_id"]}]}
    assert guest.http.post("/api/v1/chart/data", json=asked).status_code in (401, 403, 404)
    assert guest.lab("select 1").status_code >= 400
