"""Requests for SQL over invented schemas, and for small programs."""

SCHEMAS = [
    ("flight, airline, airport, ticket, city", [
        "show me flights from {place} to {place} on {day} morning", "what is the cheapest fare from {place} to {place}", "list nonstop flights leaving {place} before {number}", "i want to fly from {place} to {place} on {day}", "which airlines fly to {place}", "what time does the last flight to {place} leave", "i need a round trip ticket from {place} to {place} next {day}", "what kind of aircraft is used on the flight to {place}", "ground transportation in {place}", "flights arriving in {place} after {number} pm", "i 'd like to leave {place} in the evening and arrive in {place} on {day}", "give me the business class fares between {place} and {place}"]),
    ("country, region, city, river, lake, mountain", [
        "what is the biggest city in {country}", "which rivers run through {place}", "how many people live in {country}", "what is the population density of {place}", "which regions border {country}", "how long is the longest river in {country}", "what is the highest point of {country}", "how many cities does {country} have", "name all the lakes of {country}", "which country has the most mountains", "what is the capital of the country with the smallest area"]),
    ("course, lecturer, student, enrolment, room", [
        "which courses does {surname} teach in the autumn term ?", "does MATH {number} have a lab ?", "how many credits is the course on {thing}s ?", "who teaches CHEM {number} next semester ?", "list the upper level classes that start after 10 am", "is {name} {surname} enrolled in any class on {day}s ?", "which {small} credit courses have no exam ?", "what are the requirements for BIO {number} ?", "which lectures are held in room {number} ?", "are there any sections of PHYS {number} in the evening ?"]),
    ("author, paper, journal, conference, keyword, citation", [
        "return me the papers written by \" {person} \" after {year}", "how many papers has {surname} published in \" VLDB \"", "which author has the most citations", "return me the number of keywords of \" {person} \"", "find papers that {person} and {person} wrote together", "who wrote the most cited paper in {year} ?", "what conferences did {surname} attend ?", "return me all the journals on \" Databases \""]),
    ("movie, actor, director, genre, rating", [
        "how many movies did \" {person} \" direct after {year} ?", "who acted in the movie \" {place} \" ?", "find all movies with {person}", "which director has made the most thrillers ?", "what genre is \" The {trade} \" ?", "list the actors born in {country}", "how many actors are from {place} ?", "movies released in {year} with a rating above 8"]),
    ("restaurant, location, review, category, user", [
        "give me a good {nationality} restaurant in {place}", "how many reviews did {name} write in {month} ?", "where can i eat {nationality} food in {place} ?", "which {venue}s in {place} have {small} stars ?", "find the {venue} with the most reviews in {place}", "how many {nationality} places are there in the region ?", "list all users who reviewed \" {surname} 's Diner \""]),
    ("employees, departments, salaries, projects", [
        "which employees earn more than {number}", "average salary for each department", "the {small} highest paid employees", "all employees hired after {year} in the sales department", "number of employees by city", "employees without a manager", "departments with more than {number} people", "the name of each employee and the name of the department"]),
    ("customers, orders, order_items, products", [
        "customers who have not ordered since {month}", "total revenue per month in {year}", "the {small} best selling products", "orders over {number} dollars from {country}", "duplicate email addresses in customers", "customers in {place} sorted by name", "the average value of an order", "products that were never sold"]),
]

ASK_SQL = [
    "Write a SQL query: {q}", "Write an SQL query to find this: {q}", "SQL query for: {q}", "SQL: {q}", "How do I write this in SQL? {q}", "Turn this into SQL: {q}", "Convert the question into an SQL statement: {q}", "Convert to SQL: {q}", "Translate this request into a SQL query: {q}", "Translate into SQLite: {q}", "I need a MySQL query for: {q}", "PostgreSQL query for \"{q}\" please.", "Only answer with SQL: {q}",
    "Tables: {t}.\nQuestion: {q}\nSQL:", "Given the tables {t}, write the SQL for: {q}", "Schema: {t}\nRequest: {q}\nQuery:", "We have a database with the tables {t}. Which query answers this: {q}", "-- tables: {t}\n-- {q}\nSELECT", "/* schema: {t} */\n-- {q}\nSELECT", "{q}\n\nTables: {t}. Return the SQL only.", "{q}\nGive me the SELECT statement. The tables are {t}.", "You are a database expert. With the tables {t}, write a SELECT for the following.\n{q}",
    "My Postgres database has {t}. How can I query it to get: {q}", "Generate SQL (tables {t}) for \"{q}\"", "Our data warehouse holds {t}. Write me the query for: {q}", "Which SQL statement gives me this: {q}",
]

SQL_TASKS = [
    "Create a SQL table called '{t}' with an id, a name and a date.", "Write an SQL statement that inserts {name}, aged {number}, into the '{t}' table.", "Write a SQL query that deletes the rows of '{t}' where the id is {number}.", "Update the price of all {t} by 10% in SQL.", "Write a SQL query to count the rows of '{t}' per month.", "Write an SQL query to join the '{t}' table with 'users' on user_id.", "Write a SQL query that selects all distinct cities from the '{t}' table ordered by name.",
    "How do I add an index to the column email of '{t}'?", "What is the difference between a LEFT JOIN and an INNER JOIN?", "Optimise this query: SELECT * FROM {t} WHERE YEAR(created_at) = 2020", "Write a stored procedure that archives old {t}.", "Why does this query fail? SELECT name, COUNT(*) FROM {t}", "Design a relational schema for {t} and customers.", "Write a window function that ranks {t} by revenue within each region.", "Get the second highest salary from {t} with SQL.",
]

LANGUAGES = ["Python", "Java", "JavaScript", "C++", "C", "Ruby", "PHP", "Go", "Rust", "Bash", "TypeScript", "HTML", "CSS", "Swift", "R"]
PROGRAMS = [
    "reverses a string", "checks whether a number is prime", "counts the words of a text", "finds the largest element of a list", "sorts an array of numbers", "removes duplicates from a list", "computes the factorial of n", "prints the Fibonacci numbers up to n", "converts Celsius to Fahrenheit", "merges two sorted arrays", "validates an email address", "reads a CSV file and prints its rows", "parses JSON", "calculates the area of a circle", "finds the longest word in a sentence", "tells whether a string is a palindrome", "swaps two variables", "rolls a dice", "downloads a web page", "implements a stack", "performs binary search", "traverses a tree in order", "generates a random password", "counts vowels", "transposes a matrix", "draws a button that changes colour on click", "shows a navigation bar with three links", "connects to a web socket", "sends an AJAX request to a URL", "renders a list in React", "makes a sticky footer with Bootstrap", "sorts the documents of a MongoDB collection by a field", "computes the mean of a list", "adds a row to a data frame", "scrapes the titles of a page", "trains a linear regression", "creates an object with two methods", "draws a bar chart", "finds the volume of a sphere given its radius", "checks balanced brackets", "deletes every file older than a week", "prints Hello World", "schedules a job every hour",
]
ASK_CODE = [
    "Write a {l} function that {p}.", "Create a {l} program which {p}.", "Write code in {l} that {p}.", "Generate a {l} script that {p}.", "Implement in {l} something that {p}.", "How would you write a function that {p} in {l}?", "Write a regular expression that matches a {w}.", "Debug this {l} code:\nfor i in range(10) print(i)", "Refactor the following {l} function:\ndef f(a,b):\n  return a+b if a>b else a-b", "What does this code print?\n\nx = [1, 2, 3]\nprint(x[::-1])", "Explain what this {l} snippet does:\nlet y = xs.map(x => x * 2);", "Edit this code so that it {p}.\ndef main():\n    pass", "Design a class in {l} for a bank account with two methods.", "Name a {l} library for working with dates.", "What is the time complexity of this loop?\nfor i in 0..n { for j in 0..i { s += 1 } }", "Suggest a data structure for an undo history.", "Convert this pseudo code to {l}: read n, add 1 until n > 100.", "Rewrite this loop as a list comprehension.\nout = []\nfor x in xs:\n    out.append(x * x)", "Write a unit test in {l} for a function that {p}.", "Create an algorithm which {p}.\nInput: [3, 1, 2]", "Build an HTML page with a heading and a {w} field.", "Write CSS that centres a div.", "Output the first {n} lines of a file in {l}.", "Given a list of numbers, write a {l} function that {p}.\n[1, 5, 9]", "Describe how a hash table works.", "What is an API?", "Compare {l} and {m} for web development.", "Using React, create a component that shows a greeting.", "Using Bootstrap, create a {w} picker.", "Create a MongoDB query that returns the newest document.", "Add a heading with the text \"My page\" to the top of the page in HTML.", "Create a {l} list comprehension which keeps the even numbers.", "Write an algorithm that {p}.", "Create a function to {b}.", "Write a program to {b}.", "Given a string s, write code to {b}.\ns = \"hello\"", "Construct a {l} loop to {b}.", "Design a REST API for booking rooms.", "What command shows the running processes in Linux?", "Write a shell command to {b}.", "Develop an algorithm for scheduling tasks.", "Optimise this {l} code.\nfor i in range(len(a)):\n    for j in range(len(a)):\n        print(a[i], a[j])",
]


def rows(grammar, rng, material):
    """Yields (category, text, licence)."""
    for _ in range(1150):
        tables, questions = rng.choice(SCHEMAS)
        if rng.random() < 0.2:
            names = tables.split(", ")
            text = grammar.expand(rng.choice(SQL_TASKS).replace("{t}", rng.choice(names)))
        else:
            question = grammar.expand(rng.choice(questions))
            if rng.random() < 0.3:
                question = question.replace(" ?", "") + "?"
            text = rng.choice(ASK_SQL).replace("{q}", question).replace("{t}", tables)
        yield "data_sql", text, "Apache-2.0"
    for _ in range(520):
        text = rng.choice(ASK_CODE)
        values = {"{l}": rng.choice(LANGUAGES), "{m}": rng.choice(LANGUAGES), "{p}": rng.choice(PROGRAMS), "{n}": str(rng.randint(2, 40)), "{b}": rng.choice(["reverse the words", "find the maximum", "count characters", "remove spaces", "flatten a nested list", "print a triangle of stars", "compare two dates", "generate all permutations"]), "{w}": rng.choice(["date", "phone number", "postcode", "user name", "colour"])}
        for slot, value in values.items():
            text = text.replace(slot, value)
        yield "coding", text, "Apache-2.0"
