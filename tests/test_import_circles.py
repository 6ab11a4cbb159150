"""No module imports itself by way of others: import-linter's layers say nothing of modules of one layer."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp


def circle(graph: grimp.ImportGraph) -> list[str] | None:
    """The modules of one circle of imports, inside functions too; None if there is none. Types alone do not count."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_module_of_the_package_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("abmll", exclude_type_checking_imports=True, cache_dir=None)
    assert circle(graph) is None
    graph.add_import(importer="abmll.core.errors", imported="abmll.adapters.roles")
    found = circle(graph)
    assert found is not None
    assert "abmll.core.errors" in found
