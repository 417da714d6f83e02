"""What Superset's own Python does: `python -m services.superset.inside prepare`, `import FOLDER`, `export FOLDER` or
`scope NAME`.

prepare brings the metadata's schema, the roles and the administrator up to date and then imports; import makes
Superset's dashboards equal the files; export writes what git is to hold into a folder; scope
makes the role whose users read as a data scope's login.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from services.superset import files

# What a reader's role leaves out of Superset's Gamma, besides everything that writes.
_NOT_FOR_READERS = {
    "can_add", "can_edit", "can_delete", "can_bulk_create", "can_delete_embedded", "can_put_chart_customizations",
    "can_tag", "can_export_as_example",
}  # fmt: skip
# Which a dashboard's own working (filters in its address, a chart opened in the explorer) writes.
_STATE = {
    "DashboardFilterStateRestApi", "DashboardPermalinkRestApi", "ExploreFormDataRestApi", "ExplorePermalinkRestApi",
    "CurrentUserRestApi",
}  # fmt: skip


def prepare() -> None:
    """The schema, permissions, roles, the administrator; then the import."""
    from flask import current_app
    from flask_migrate import upgrade
    from superset.extensions import appbuilder

    upgrade()
    appbuilder.add_permissions(update_perms=True)
    manager = appbuilder.sm
    manager.sync_role_definitions()
    _make_roles(manager)
    password = current_app.config["ADMIN_PASSWORD"]
    admin = manager.find_user(username="admin")
    if admin is None:
        manager.add_user("admin", "Scope", "House", "admin@localhost", manager.find_role("Admin"), password)
    else:
        manager.reset_password(admin.id, password)
    import_files()


def import_files(folder: Path = files.ASSETS) -> None:
    """Make databases, datasets, charts and dashboards as the files say, in one transaction; remove what was theirs.

    What users made themselves is left alone, unless they certified it in our name.
    """
    from flask import g
    from superset.commands.importers.v1.assets import ImportAssetsCommand
    from superset.connectors.sqla.models import SqlaTable
    from superset.extensions import appbuilder, db
    from superset.models.dashboard import Dashboard
    from superset.models.slice import Slice
    from superset.utils import json

    g.user = appbuilder.sm.find_user(username="admin")
    wanted = files.read(folder)
    ImportAssetsCommand(files.bundle(wanted)).run()
    for model, kind in ((Dashboard, "dashboards"), (Slice, "charts")):
        known = files.uuids_of(wanted, kind)
        for one in db.session.query(model).filter_by(certified_by=files.CERTIFIED_BY):
            if one.uuid not in known:
                db.session.delete(one)
    known = files.uuids_of(wanted, "datasets")
    for dataset in db.session.query(SqlaTable):
        certification = json.loads(dataset.extra or "{}").get("certification", {})
        ours = certification.get("certified_by") == files.CERTIFIED_BY
        if ours and dataset.uuid not in known and not dataset.slices:
            db.session.delete(dataset)
    db.session.commit()


def export(folder: Path) -> None:
    """Write the certified dashboards and their charts into `folder`; files of others that are there go."""
    from flask import g
    from superset.commands.export.assets import ExportAssetsCommand
    from superset.extensions import appbuilder

    g.user = appbuilder.sm.find_user(username="admin")
    exported = {path: yaml.safe_load(content()) for path, content in ExportAssetsCommand().run()}
    wanted = files.normal(exported)
    there = files.read(folder)
    for path, content in wanted.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files.text_of(content))
    for path in {**files.of_kind(there, "charts"), **files.of_kind(there, "dashboards")}:
        if path not in wanted:
            (folder / path).unlink()


def make_scope_role(name: str) -> None:
    """A role without permissions: superset_config picks the login by its name."""
    from superset.extensions import appbuilder

    appbuilder.sm.add_role(f"Scope {name}")


def _make_roles(manager: Any) -> None:
    """Analyst reads, Editor makes charts and dashboards and asks SQL Lab; the administrator's is Superset's Admin."""
    gamma = manager.find_role("Gamma").permissions
    every_dataset = manager.find_permission_view_menu("all_datasource_access", "all_datasource_access")
    every_database = manager.find_permission_view_menu("all_database_access", "all_database_access")
    reads = [one for one in gamma if _reads(one.permission.name, one.view_menu.name)]
    alpha = manager.find_role("Alpha").permissions
    lab = manager.find_role("sql_lab").permissions
    _set_role(manager, "Analyst", [*reads, every_dataset])
    _set_role(manager, "Editor", [*alpha, *lab, every_dataset, every_database])


def _reads(permission: str, view: str) -> bool:
    if permission in ("can_write", "can_post", "can_put"):
        return view in _STATE
    return permission not in _NOT_FOR_READERS


def _set_role(manager: Any, name: str, permissions: Iterable[Any]) -> None:
    from superset.extensions import db

    role = manager.find_role(name) or manager.add_role(name)
    role.permissions = list({one.id: one for one in permissions}.values())
    db.session.commit()


def main(words: list[str]) -> None:
    """Do what `words` say."""
    os.environ.setdefault("FLASK_APP", "superset.app:create_app()")
    from superset.app import create_app

    with create_app().app_context():
        match words:
            case ["prepare"]:
                prepare()
            case ["import", folder]:
                import_files(Path(folder))
            case ["export", folder]:
                export(Path(folder))
            case ["scope", name]:
                make_scope_role(name)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
